use super::*;

#[test]
fn defaults_are_valid() {
    SessionOptions::default().validate().unwrap();
    ProjectorOptions::default().validate().unwrap();
    Sampling::default().validate().unwrap();
}

#[test]
fn values_out_of_range_name_the_range() {
    let message = Sampling {
        top_p: 1.5,
        ..Sampling::default()
    }
    .validate()
    .unwrap_err()
    .to_string();
    assert_eq!(message, "top_p is 1.5: expected 0 to 1");
    assert!(
        Sampling {
            temp: f32::NAN,
            ..Sampling::default()
        }
        .validate()
        .is_err()
    );
    assert!(
        SessionOptions {
            n_batch: 0,
            ..SessionOptions::default()
        }
        .validate()
        .is_err()
    );
    let options = ProjectorOptions {
        image_min_tokens: Some(9),
        image_max_tokens: Some(8),
        ..ProjectorOptions::default()
    };
    assert!(options.validate().is_err());
}

#[test]
fn quantized_values_need_flash_attention() {
    let options = SessionOptions {
        type_v: KvType::Q8_0,
        flash_attn: FlashAttention::Off,
        ..SessionOptions::default()
    };
    assert!(matches!(
        options.validate(),
        Err(Error::QuantizedValues { type_v: KvType::Q8_0 })
    ));
    SessionOptions {
        type_k: KvType::Q8_0,
        ..options.clone()
    }
    .validate()
    .unwrap_err();
    SessionOptions {
        flash_attn: FlashAttention::Auto,
        ..options
    }
    .validate()
    .unwrap();
}

#[test]
fn names_round_trip() {
    for &ty in KvType::ALL {
        assert_eq!(ty.name().parse::<KvType>().unwrap(), ty);
    }
    assert!("q2_k".parse::<KvType>().unwrap_err().to_string().contains("q8_0"));
    for flash_attn in [FlashAttention::Auto, FlashAttention::On, FlashAttention::Off] {
        assert_eq!(
            flash_attn.to_string().parse::<FlashAttention>().unwrap(),
            flash_attn
        );
    }
}
